"""What happens to websockets when Redis, the network, a worker or the clock fails; on real processes."""
