"""The zoo: small models that know a known part of what is to be forgotten, to measure what an audit misses."""
