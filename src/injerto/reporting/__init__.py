"""What people look at: pictures of predictions; tables and pages come with later work."""
