"""Five folds of two kinds, three of scikit-learn's neighbours and two of XGBoost's, large enough to be felt."""

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import xgboost
from data import competition
from sklearn.neighbors import KNeighborsRegressor

ROWS = 4_000_000
random = np.random.RandomState(0)
X = pd.DataFrame(random.rand(ROWS + 2_000, 6), columns=[f"x{number}" for number in range(6)])
y = X["x0"] + X["x1"] * X["x2"] + random.rand(len(X)) / 10
X, y, test = X[:ROWS], y[:ROWS], X[ROWS:]
Path("models").mkdir(exist_ok=True)

predictions = []
for fold in range(5):
    held_out = np.arange(ROWS) % 5 == fold
    if fold < 3:
        # It keeps all that it was trained on: about 250 MB.
        model = KNeighborsRegressor(5, algorithm="kd_tree").fit(X[~held_out], y[~held_out])
        joblib.dump(model, f"models/fold{fold}.joblib")
    else:
        some = np.flatnonzero(~held_out)[::40]
        model = xgboost.XGBRegressor(n_estimators=200, max_depth=10, n_jobs=2, random_state=fold)
        model.fit(X.iloc[some], y.iloc[some])
        model.save_model(f"models/fold{fold}.ubj")
    predictions.append(model.predict(test).astype(np.float32))

competition(test, np.mean(predictions, axis=0))
