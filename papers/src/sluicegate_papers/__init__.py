"""Reproductions of papers: experiments, recipes, tasks that only they use, benchmarks, and pages made from results."""
