"""An estimator as it is, by joblib."""

import joblib
import lightgbm
from data import competition, wine

X, y, test = wine()
model = lightgbm.LGBMClassifier(n_estimators=30, min_child_samples=5, verbose=-1).fit(X, y)

joblib.dump(model, "models/model.joblib")
competition(test, model.predict_proba(test))
