"""The HTTP service `sdxl serve`: an engine of jobs without HTTP in it, and skins that speak HTTP to it.

From below: `work` (what a job is to generate) and `job`; `engine` and `worker`; `service`, the three together with
names and limits; `skin`, the contract of whatever speaks a client's protocol; `api`, our own skin, `sdapi` and
`openai`, AUTOMATIC1111's and OpenAI's; `app`, all of them behind `guard`; `run`, the process. No module imports torch
before a worker does, so the service listens at once.
"""
