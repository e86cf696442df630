"""Image quality.

metrics.py  PSNR, SSIM, MS-SSIM and RMSE, in the full range and in CT windows
"""
