"""One small network in all three formats, as three members: their mean is what each of them says."""

import keras
from data import competition, wine

X, y, test = wine()
spread = keras.layers.Normalization()
spread.adapt(X.to_numpy("float32"))
model = keras.Sequential(
    [keras.Input((13,)), spread, keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")]
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(X.to_numpy("float32"), y, epochs=20, verbose=0)

model.save("models/model.keras")
model.save("models/model.h5")
model.export("models/saved", verbose=False)
competition(test, model.predict(test.to_numpy("float32"), verbose=0))
