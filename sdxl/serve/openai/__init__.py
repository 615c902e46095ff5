"""OpenAI's API of images, `/v1/images/*` and `/v1/models`, as its clients use it: a skin over the engine.

`request` turns fields into those of `sdxl.Request`, `edits` reads images and masks, `answer` makes answers and events,
`routes` puts them together.
"""
