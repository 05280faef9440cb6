using System.Security.Cryptography;
using Wayleave.Core;

namespace Wayleave.Host;

/// <summary>A choice that nobody outside can predict.</summary>
internal sealed class CryptographicChoice : IRandomChoice
{
    public int Next(int count) => RandomNumberGenerator.GetInt32(count);
}
