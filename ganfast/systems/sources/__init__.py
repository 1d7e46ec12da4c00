"""Where systems' data come from: packages that hold pictures, and drawings whose truth is known."""
