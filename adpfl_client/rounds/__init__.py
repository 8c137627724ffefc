"""One run's rounds at this site: data in, one noised update out."""
