"""What a verified, durable step costs. `command` plans and prints, `probe` measures in a process of its own."""
