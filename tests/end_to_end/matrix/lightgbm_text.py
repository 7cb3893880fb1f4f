"""A classifier with categories of words, by save_model."""

import lightgbm
from data import cancer, competition

X, y, test = cancer()
words = {"size": "category", "shape": "category"}
model = lightgbm.LGBMClassifier(n_estimators=40, min_child_samples=5, verbose=-1).fit(X.astype(words), y)

model.booster_.save_model("models/model.txt")
competition(test, model.predict_proba(test.astype(words))[:, 1])
