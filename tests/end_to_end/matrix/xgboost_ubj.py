"""A classifier with categories that stopped early, by save_model."""

import xgboost
from data import cancer, competition

X, y, test = cancer()
words = {"size": "category", "shape": "category"}
X, known = X.astype(words), test.astype(words)
model = xgboost.XGBClassifier(
    n_estimators=300, learning_rate=0.3, early_stopping_rounds=3, enable_categorical=True
)
model.fit(X[:300], y[:300], eval_set=[(X[300:], y[300:])], verbose=False)
assert model.best_iteration < model.n_estimators - 5

model.save_model("models/model.ubj")
competition(test, model.predict_proba(known)[:, 1])
