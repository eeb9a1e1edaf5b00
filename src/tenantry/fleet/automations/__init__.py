"""What lets a fleet look after itself from the user's own repository and accounts: workflows, configurations, secrets.

Files are made from templates, and made again without harm; secrets go where they belong through the APIs of GitHub and
Vercel, sealed before they are sent. Must never write over a file that somebody has made their own, and never put a
secret into a file, a log or a command line.
"""
