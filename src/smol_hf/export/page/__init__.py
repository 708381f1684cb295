"""The target `page`. Read `transformers_js` (the files of the engine), then `page`."""
