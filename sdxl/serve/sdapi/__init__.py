"""AUTOMATIC1111's API, `/sdapi/v1/*`, as its clients use it: a skin over the engine.

It takes AUTOMATIC1111's fields, names and prompt syntax; noise and masks are ours. `request` turns fields into those of
`sdxl.Request`, with `sampling` for names, `sources` and `painting` for images and masks, `scripts` for extensions;
`answer` is what comes back, `progress` and `lists` what can be asked. `routes` puts them together.
"""
