using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>No host runs where one was expected. The command line ends with 4.</summary>
public sealed class HostUnavailableException(
    Errno errno, string operation, string reason, string? remedy = null, Exception? innerException = null)
    : WayleaveException(errno, operation, reason, remedy, innerException);
