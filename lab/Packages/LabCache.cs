namespace Wayleave.Lab.Packages;

/// <summary>
/// The folder that holds what was fetched: <c>LAB_CACHE</c>, or <c>wayleave-lab</c> in the user's cache folder. Nothing
/// outside it is ever written, and deleting it costs only the next fetch.
/// </summary>
internal sealed class LabCache
{
    internal LabCache(string? folder = null)
    {
        folder ??= Environment.GetEnvironmentVariable("LAB_CACHE");
        if (string.IsNullOrEmpty(folder))
        {
            string? caches = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
            folder = Path.Combine(
                string.IsNullOrEmpty(caches)
                    ? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache")
                    : caches,
                "wayleave-lab");
        }

        Folder = Path.GetFullPath(folder);
        try
        {
            Directory.CreateDirectory(Folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LabException(
                ExitCodes.NotSupported, $"no cache: {e.Message}", "name a folder that you may write: LAB_CACHE=FOLDER");
        }
    }

    internal string Folder { get; }

    /// <summary>A path below the cache.</summary>
    internal string Of(params ReadOnlySpan<string> parts) => Path.Combine([Folder, .. parts]);

    /// <summary>Keeps other runs from fetching at the same time; waits for them. Dispose to let them in.</summary>
    internal IDisposable Lock()
    {
        while (true)
        {
            try
            {
                return new FileStream(
                    Of("lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.None);
            }
            catch (IOException)
            {
                // Another run fetches. The lock goes with its process, so this ends.
                Thread.Sleep(200);
            }
        }
    }

    /// <summary>Refuses early what would end in a half-unpacked kernel.</summary>
    /// <exception cref="LabException">There is less than that.</exception>
    internal void RequireSpace(long bytes)
    {
        long free = new DriveInfo(Folder).AvailableFreeSpace;
        if (free < bytes)
        {
            throw new LabException(
                ExitCodes.NotSupported,
                $"no space: {Folder} has {free >> 20} MiB free and the lab needs {bytes >> 20} MiB",
                "make room, or name another folder: LAB_CACHE=FOLDER");
        }
    }
}
