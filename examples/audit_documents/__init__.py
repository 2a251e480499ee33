"""An audit of real files as a verified pipeline: extract, cross-check, draft, review, publish. See ``--help``."""
