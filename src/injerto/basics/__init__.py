"""What every folder of Injerto leans on: errors, notes and progress, safe files."""
