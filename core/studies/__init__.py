"""Studies: sweeps over settings and seeds, and the effects of single changes."""
