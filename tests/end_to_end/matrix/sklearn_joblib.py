"""A forest for three classes, by joblib, compressed."""

import joblib
from data import competition, wine
from sklearn.ensemble import RandomForestClassifier

X, y, test = wine()
model = RandomForestClassifier(n_estimators=50, random_state=0).fit(X, y)

joblib.dump(model, "models/forest.joblib", compress=3)
competition(test, model.predict_proba(test))
