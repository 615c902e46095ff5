"""The world of the miniature, a judge of its images, and the exam that uses both."""
