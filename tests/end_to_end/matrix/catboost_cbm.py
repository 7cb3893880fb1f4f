"""A classifier with columns of words, by save_model."""

import catboost
from data import cancer, competition

X, y, test = cancer()
model = catboost.CatBoostClassifier(
    iterations=40, cat_features=["size", "shape"], random_seed=0, verbose=False, allow_writing_files=False
)
model.fit(X, y)

model.save_model("models/model.cbm")
competition(test, model.predict_proba(test)[:, 1])
