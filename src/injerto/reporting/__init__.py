"""What people look at: pages for a browser, pictures of predictions."""
