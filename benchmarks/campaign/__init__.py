"""A campaign against the program: kills, full disks, flipped bits, hostile input, a server under attack."""
