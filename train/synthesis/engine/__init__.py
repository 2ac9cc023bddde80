"""Run a build's steps, record them in journals, and spread them over workers."""
