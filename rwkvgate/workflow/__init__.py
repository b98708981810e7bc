"""Where notebooks run: papermill, clusters, Colab, Drive, releases, the explorer on a run."""
