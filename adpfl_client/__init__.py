"""The site agent: trains on local images, spends the site's own privacy budget, sends noised updates only."""
