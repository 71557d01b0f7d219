"""Long runs: rounds of kills, and mixed traffic whose figures must be flat."""
