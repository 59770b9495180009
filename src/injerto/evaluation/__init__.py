"""How good a run is: metrics with intervals, and calibration."""
