"""What operators see, export and measure."""
