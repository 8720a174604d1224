-- Every request of wrk adds a city of its own; START keeps the names of one run apart from those of the next.
local start = os.getenv("START")
local number = 0

request = function()
  number = number + 1
  local body = string.format('{"name": "City %s %d", "population": %d}', start, number, number % 100000)
  return wrk.format("POST", "/cities/", {["Content-Type"] = "application/json"}, body)
end
