"""What people at the site do and see."""
