"""Networks that rebuild sensors: the masked autoencoder, the inpainter, their decoders and heads."""
