"""Other projects' formats, in and out: `mmalign convert`, and published corpora with files of their own."""
