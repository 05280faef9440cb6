namespace Wayleave.Host.Programs;

/// <summary>A folder of this user alone, in which one run keeps what its processes share; goes with it.</summary>
internal sealed class RunFolder : IDisposable
{
    /// <param name="program">For the message.</param>
    /// <exception cref="WayleaveException">It cannot be made.</exception>
    public RunFolder(string program)
    {
        try
        {
            Path = Directory.CreateTempSubdirectory("wayleave-run-").FullName; // mode 0700
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, $"make a folder for the run of {program}");
        }
    }

    public string Path { get; }

    /// <summary>Another process of the run may still write there: then something stays, of a few pages.</summary>
    public void Dispose()
    {
        try
        {
            Directory.Delete(Path, recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            Console.Error.WriteLine($"wayleave: {Path} stays: {e.Message}");
        }
    }
}
