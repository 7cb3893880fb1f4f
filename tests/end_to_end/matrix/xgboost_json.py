"""Three classes with xgboost.train, whose objective answers with the class, by save_model as JSON."""

import xgboost
from data import competition, wine

X, y, test = wine()
settings = {"objective": "multi:softmax", "num_class": 3, "max_depth": 3}
model = xgboost.train(settings, xgboost.DMatrix(X, y), num_boost_round=20)

model.save_model("models/model.json")
model.set_param({"objective": "multi:softprob"})
competition(test, model.predict(xgboost.DMatrix(test)))
