"""Image quality.

metrics.py        PSNR, SSIM, MS-SSIM and RMSE, in the full range and in CT windows
ssim.py           how SSIM and MS-SSIM are computed
similarity.py     VIF and GMSD, SSIM by two libraries
tissues.py        bias and variance over noise realisations, maps and by tissue
nps.py            noise power spectrum
ttf.py            task transfer function and contrast
detectability.py  d' of two model observers, with bootstrap intervals
sites.py          places where discs are inserted
records.py        what a physics evaluation remembers
"""
