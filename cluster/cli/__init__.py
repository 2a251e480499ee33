"""The command line ``agentraft``: one file for every family of commands, loaded when one of them is called."""
