"""What comes in: domains of images or texts; readers, splits, transforms, tokenization, bundled samples."""
