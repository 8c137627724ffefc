"""The benchmark's job as a Flower app: rounds without training."""
