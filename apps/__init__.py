"""What a person sees. The only folder that imports gradio; knows nothing of tokens or tensors."""
