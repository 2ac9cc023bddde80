"""FTSR, the paper's data set (Sec. 3.5), and Real-CE's alignment: steps that read and write files."""
