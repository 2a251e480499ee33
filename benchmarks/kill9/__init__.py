"""The kill -9 proof: a run is killed at random moments, with its process, its server or both, until it has finished all the same."""
