-- Asks for the addresses of a file, one after the other.
local addresses, number = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do addresses[#addresses + 1] = line end
end

function request()
  number = number % #addresses + 1
  return wrk.format("GET", addresses[number])
end
