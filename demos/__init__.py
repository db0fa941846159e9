"""The experiments: each demo trains small nets, measures one claim and says PASS or FAIL."""
