"""A regression, by skops."""

import skops.io
from data import competition, diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer

X, y, test = diabetes()
model = make_pipeline(PowerTransformer(), GradientBoostingRegressor(random_state=0)).fit(X, y)

skops.io.dump(model, "models/model.skops")
competition(test, model.predict(test))
