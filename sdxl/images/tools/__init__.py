"""What other tools write into their files: AUTOMATIC1111's text and its relatives, and ComfyUI's graphs."""
