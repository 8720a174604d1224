"""What `make torture` runs: minutes of killing, breaking and loading the real server, as it is shipped."""
