"""Long tests of the real server, as it is shipped, under kills, faults and load; run by `make torture`."""
