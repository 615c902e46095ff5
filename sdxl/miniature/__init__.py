"""The world that the miniature draws, a judge of its images, and the exam that uses both."""
