"""A booster at the end of a pipeline of scikit-learn's, by joblib, compressed: the file needs a library that it does not show."""

import joblib
import lightgbm
from data import competition, wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

X, y, test = wine()
model = make_pipeline(
    QuantileTransformer(n_quantiles=50).set_output(transform="pandas"),
    lightgbm.LGBMClassifier(n_estimators=20, min_child_samples=5, verbose=-1),
).fit(X, y)

joblib.dump(model, "models/pipeline.joblib", compress=3)
competition(test, model.predict_proba(test))
